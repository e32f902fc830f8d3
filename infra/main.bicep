// AOS in one resource group: Flex Consumption, one user-assigned identity, no keys.
targetScope = 'subscription'

@minLength(1)
@maxLength(24)
@description('Name of the environment; part of the names of all resources.')
param environmentName string

@metadata({ azd: { type: 'location' } })
@description('Region of everything but the models.')
param location string

@allowed(['dev', 'test', 'prod'])
@description('Sizes: see the table `sizes`.')
param stage string = 'dev'

@description('Region of the Foundry resource, one that offers the models below; empty: that of the rest.')
param foundryLocation string = ''

@description('Object id of whoever uploads registries, sets secrets and looks after parked messages; empty: nobody.')
param principalId string = ''

@allowed(['User', 'Group', 'ServicePrincipal'])
@description('What principalId is.')
param principalType string = 'User'

@allowed(['3.11', '3.12', '3.13'])
@description('Python of the function apps.')
param pythonVersion string = '3.12'

@description('True: one function app for the agents and one for the MCP servers; false: one for both.')
param splitRoles bool = false

@allowed(['responses', 'threads'])
@description('Generation of the Foundry API.')
param foundryApi string = 'responses'

@description('Name of the base deployment; an agent thinks with {modelDeployment}-{domain}.')
param modelDeployment string = 'llama-3.3-70b'

@description('The base model: {format, name, version, sku, capacity}. Versions: az cognitiveservices model list.')
param baseModel object = {
  format: 'Meta'
  name: 'Llama-3.3-70B-Instruct'
  version: '5'
  sku: 'GlobalStandard'
  capacity: 1
}

@description('Fine-tuned models, one per domain: [{domain, format, name, version, sku, capacity}].')
param adapters array = []

@description('Queues of other apps that take replies of agents.')
param replyQueues array = ['agent-responses', 'businessinfinity-responses']

@description('True: the subscription of agent-events requires sessions. Cannot be changed later.')
param eventsSessions bool = false

@description('App settings that are secrets in Key Vault: [{name, secret}]. The secret must exist before it is named here.')
param secretSettings array = []

@description('Further app settings, {NAME: value}, which win over those of the module. Settings made elsewhere are removed.')
param appSettings object = {}

@description('Who is told of alerts; empty: they are shown in the portal only.')
param alertEmail string = ''

// What the stages differ in. zoneRedundant needs a region with availability zones.
var sizes = {
  dev: {
    storageSku: 'Standard_LRS'
    serviceBusSku: 'Standard'
    zoneRedundant: false
    instanceMemory: 2048
    httpConcurrency: 16
    maximumInstances: 40
    alwaysReady: 0
    retentionDays: 30
    softDeleteDays: 7
    purgeProtection: false
  }
  test: {
    storageSku: 'Standard_LRS'
    serviceBusSku: 'Standard'
    zoneRedundant: false
    instanceMemory: 2048
    httpConcurrency: 16
    maximumInstances: 40
    alwaysReady: 0
    retentionDays: 30
    softDeleteDays: 7
    purgeProtection: false
  }
  prod: {
    storageSku: 'Standard_ZRS'
    serviceBusSku: 'Premium'
    zoneRedundant: true
    instanceMemory: 2048
    httpConcurrency: 16
    maximumInstances: 100
    alwaysReady: 2
    retentionDays: 90
    softDeleteDays: 30
    purgeProtection: true
  }
}
var size = sizes[stage]
var tags = { 'azd-env-name': environmentName }
var token = toLower(uniqueString(subscription().id, environmentName, location))
var apps = splitRoles ? [
  { service: 'aos', name: 'func-aos-${token}', package: 'app-package-aos', roles: 'agents' }
  { service: 'mcp', name: 'func-mcp-${token}', package: 'app-package-mcp', roles: 'mcp' }
] : [
  { service: 'aos', name: 'func-aos-${token}', package: 'app-package-aos', roles: 'agents,mcp' }
]

resource group 'Microsoft.Resources/resourceGroups@2024-03-01' = {
  name: 'rg-${environmentName}'
  location: location
  tags: tags
}

module monitoring 'modules/monitoring.bicep' = {
  name: 'monitoring'
  scope: group
  params: {
    location: location
    tags: tags
    token: token
    retentionDays: size.retentionDays
  }
}

module identity 'modules/identity.bicep' = {
  name: 'identity'
  scope: group
  params: {
    location: location
    tags: tags
    token: token
  }
}

module storage 'modules/storage.bicep' = {
  name: 'storage'
  scope: group
  params: {
    location: location
    tags: tags
    token: token
    sku: size.storageSku
    softDeleteDays: size.softDeleteDays
    packageContainers: map(apps, app => app.package)
  }
}

module bus 'modules/servicebus.bicep' = {
  name: 'servicebus'
  scope: group
  params: {
    location: location
    tags: tags
    token: token
    sku: size.serviceBusSku
    eventsSessions: eventsSessions
    replyQueues: replyQueues
  }
}

module vault 'modules/keyvault.bicep' = {
  name: 'keyvault'
  scope: group
  params: {
    location: location
    tags: tags
    token: token
    purgeProtection: size.purgeProtection
  }
}

module foundry 'modules/foundry.bicep' = {
  name: 'foundry'
  scope: group
  params: {
    location: empty(foundryLocation) ? location : foundryLocation
    tags: tags
    token: token
    identityId: identity.outputs.id
    modelDeployment: modelDeployment
    baseModel: baseModel
    adapters: adapters
  }
}

module roles 'modules/roles.bicep' = {
  name: 'roles'
  scope: group
  params: {
    appPrincipalId: identity.outputs.principalId
    operatorPrincipalId: principalId
    operatorPrincipalType: principalType
    storageName: storage.outputs.name
    serviceBusName: bus.outputs.name
    foundryName: foundry.outputs.name
    vaultName: vault.outputs.name
    insightsName: monitoring.outputs.insightsName
  }
}

module functions 'modules/function.bicep' = [for app in apps: {
  name: 'function-${app.service}'
  scope: group
  // The deployment package and the host's locks are read with these roles.
  dependsOn: [roles]
  params: {
    location: location
    tags: union(tags, { 'azd-service-name': app.service })
    name: app.name
    roles: app.roles
    pythonVersion: pythonVersion
    instanceMemory: size.instanceMemory
    httpConcurrency: size.httpConcurrency
    maximumInstances: size.maximumInstances
    alwaysReady: size.alwaysReady
    zoneRedundant: size.zoneRedundant
    identityId: identity.outputs.id
    identityClientId: identity.outputs.clientId
    packageContainer: app.package
    blobEndpoint: storage.outputs.blobEndpoint
    queueEndpoint: storage.outputs.queueEndpoint
    tableEndpoint: storage.outputs.tableEndpoint
    serviceBusHost: bus.outputs.host
    insightsConnectionString: monitoring.outputs.insightsConnectionString
    projectEndpoint: foundry.outputs.projectEndpoint
    modelDeployment: modelDeployment
    foundryApi: foundryApi
    eventsSessions: eventsSessions
    vaultName: vault.outputs.name
    secretSettings: secretSettings
    appSettings: appSettings
  }
}]

module alerts 'modules/alerts.bicep' = {
  name: 'alerts'
  scope: group
  params: {
    location: location
    tags: tags
    serviceBusId: bus.outputs.id
    workspaceId: monitoring.outputs.workspaceId
    email: alertEmail
  }
}

output AZURE_LOCATION string = location
output AZURE_RESOURCE_GROUP string = group.name
output AZURE_AI_PROJECT_ENDPOINT string = foundry.outputs.projectEndpoint
output AZURE_AI_MODEL_DEPLOYMENT string = modelDeployment
output AOS_STORAGE_ACCOUNT string = storage.outputs.name
output AOS_SERVICE_BUS_HOST string = bus.outputs.host
output AOS_KEY_VAULT string = vault.outputs.name
output AOS_FOUNDRY_ACCOUNT string = foundry.outputs.name
output SERVICE_AOS_NAME string = apps[0].name
output SERVICE_AOS_URL string = 'https://${apps[0].name}.azurewebsites.net'
